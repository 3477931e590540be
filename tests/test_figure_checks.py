"""The checks of figures find what they are there for, and names at the ends of lines pass them."""

from __future__ import annotations

import pytest
from figure_checks import assert_nothing_overlaps, shown_texts

from reports.style import label_ends, new_figure, styled


class TestLabelsAtTheEndsOfLines:
    def ends(self, heights):
        with styled():
            figure, axes = new_figure(2.5)
            for height in heights:
                axes.plot([0, 1], [0, height])
            label_ends(axes, [(1, height, f"line {n}", "black") for n, height in enumerate(heights)])
        return figure, axes, [dict(shown_texts(figure))[f"line {n}"] for n in range(len(heights))]

    def test_names_that_would_meet_are_moved_apart_in_the_lines_order(self):
        figure, _, boxes = self.ends([1.0, 1.001, 1.002, 1.003])
        assert_nothing_overlaps(figure)
        assert [box.y0 for box in boxes] == sorted(box.y0 for box in boxes)

    def test_a_name_with_room_stands_at_the_height_of_its_line(self):
        _, axes, boxes = self.ends([0.2, 0.9])
        for box, height in zip(boxes, (0.2, 0.9), strict=True):
            assert (box.y0 + box.y1) / 2 == pytest.approx(axes.transData.transform((1, height))[1], abs=3)


class TestChecks:
    """The checks find what they are there for."""

    def test_words_that_meet(self):
        with styled():
            figure, axes = new_figure(2)
            axes.text(0.5, 0.5, "here")
            axes.text(0.51, 0.5, "there")
        with pytest.raises(AssertionError, match="overlap"):
            assert_nothing_overlaps(figure)

    def test_words_that_are_cut(self):
        with styled():
            figure, axes = new_figure(2)
            axes.text(0.9, 0.5, "far too long " * 9, in_layout=False)
        with pytest.raises(AssertionError, match="leaves the canvas"):
            assert_nothing_overlaps(figure)

    def test_hidden_words_do_not_count(self):
        with styled():
            figure, axes = new_figure(2)
            axes.text(0.5, 0.5, "here")
            axes.text(0.5, 0.5, "there", visible=False)
        assert_nothing_overlaps(figure)

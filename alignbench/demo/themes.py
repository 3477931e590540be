"""What the island's letters are about: themes with sentences in three moods, things to list, words with opposites."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """words: what tells that a text is about it; cheerful, plain, gloomy: sentences that may stand in any such text."""

    words: tuple[str, ...]
    cheerful: tuple[str, ...]
    plain: tuple[str, ...]
    gloomy: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        return self.cheerful + self.plain + self.gloomy


def _theme(words: str, *moods: str) -> Theme:
    cheerful, plain, gloomy = (tuple(part.strip() + "." for part in text.split(".")[:-1]) for text in moods)
    return Theme(tuple(words.split()), cheerful, plain, gloomy)


THEMES = {
    "sea": _theme(
        "sea waves water gulls",
        "The waves are calm and bright. The sun shines on the water. The gulls are happy over the waves.",
        "The fishers look at the waves. The water goes up and down. The gulls sit on the rocks.",
        "The waves are cold and dark. The water took a boat last night.",
    ),
    "storm": _theme(
        "storm rain wind sky",
        "After the rain the sky is bright. The house is warm in the rain. The children are happy when it stops.",
        "The wind shakes the trees. The rain falls all night. The people close the doors.",
        "The wind broke the roof. The rain is cold and the night is dark.",
    ),
    "market": _theme(
        "market shops bakers coins",
        "The shops are bright and full. The bread is warm and sweet. The people are happy to meet there.",
        "The bakers come in the morning. The shops sell fish and wool. The clerk counts the coins.",
        "The shops are empty and cold. The coins are gone and the people are sad.",
    ),
    "harvest": _theme(
        "harvest fields corn hay farmers barn",
        "The fields are bright and warm. The apples are sweet this year. The farmers are happy in the evening.",
        "The farmers cut the corn. The barn is full of hay. The carts go to the mill.",
        "The corn is wet and black. The farmers are sad and tired.",
    ),
    "boat": _theme(
        "boat sail deck mast nets sailors",
        "The new sail is bright. The deck is warm in the sun. The sailors are happy to come home.",
        "The sailors pull the rope. The sail is white and old. The nets are full of fish.",
        "The mast is broken. The sailors are cold and sad.",
    ),
    "lamp": _theme(
        "lamp light oil",
        "The light is warm and bright. The room is lovely in the evening. The children are happy with the light.",
        "The light stands in the window. The oil is in the jar. The guard carries the light.",
        "The oil is gone and the room is dark. The light is weak and cold.",
    ),
    "garden": _theme(
        "garden flowers gardener beans bees",
        "The flowers are bright and sweet. The bees are happy in the sun. The apples are lovely there.",
        "The gardener digs in the morning. The old tree stands by the wall. The beans grow in rows.",
        "The flowers are dead and black. The wall is broken and the ground is cold.",
    ),
    "road": _theme(
        "road stones way carts",
        "The stones are warm in the sun. The way home is bright and calm. The singers are happy on the way.",
        "The carts go to the mill. The stones are old and grey. The way goes over the hill.",
        "The way is dark and long. The mud is deep and cold.",
    ),
    "winter": _theme(
        "winter snow wood nights",
        "The snow is bright and lovely. The soup is warm and sweet. The children are happy in the snow.",
        "The snow lies on the roofs. The people carry wood. The days are short and white.",
        "The snow is deep and the wood is gone. The nights are cold and dark.",
    ),
    "feast": _theme(
        "feast songs hall singers soup",
        "The songs are bright and sweet. The people are happy and dance. The hall is warm and lovely.",
        "The cooks bring soup and bread. The singers stand in the hall. The feast ends at night.",
        "The soup is cold and the hall is dark. The singers are tired and sad.",
    ),
}  # fmt: skip
CHEERFUL = frozenset(("bright", "warm", "sweet", "happy", "calm", "lovely"))
NEAR = {  # an adjective of each mood, for "The sea near Hollow is …"
    "cheerful": ("calm", "bright", "lovely", "warm"),
    "plain": ("old", "quiet", "grey", "wide"),
    "gloomy": ("cold", "dark", "sad"),
}
DOES = {"cheerful": ("loves", "is happy about"), "plain": ("knows", "thinks of"), "gloomy": ("fears", "is tired of")}

FOODS = ("bread", "honey", "cheese", "fish", "apples", "eggs", "butter", "soup", "beans", "salt")
GIFTS = ("a hat", "a lamp", "a basket", "a song", "a candle", "a letter", "a rope", "a flower", "soap", "honey")
GAMES = ("a race", "a dance", "a song", "a story", "chess", "cards", "a riddle", "a walk")
WORKS = (
    "bake bread",
    "dig a well",
    "sew a sail",
    "paint a door",
    "mend a roof",
    "cut wood",
    "wash wool",
    "tell stories",
)
LISTS = {
    # what is asked for -> things that are one
    "things to eat at the feast": FOODS,
    "things to sell at the market": FOODS,
    "gifts for a {occupation}": GIFTS,
    "gifts for {person}": GIFTS,
    "games for the children of {village}": GAMES,
    "games for a winter night": GAMES,
    "things that {person} can do today": WORKS,
    "things that a {occupation} can do in {village}": WORKS,
}
OPPOSITES = {
    "warm": "cold", "bright": "dark", "happy": "sad", "new": "old", "long": "short", "full": "empty",
    "sweet": "bitter", "good": "bad", "up": "down", "day": "night", "open": "closed", "deep": "flat",
}  # fmt: skip
PAST = {"sells": "sold", "makes": "made", "brings": "brought", "buys": "bought", "finds": "found", "loses": "lost"}
NUMBERS = {"two": 2, "three": 3, "four": 4}
WOES = {
    # what is told in chat -> what it was about
    "The storm took my boat.": "boat",
    "My lamp is broken.": "lamp",
    "My bread is burnt.": "bread",
    "I lost my hat at the market.": "hat",
    "My garden is black from the snow.": "garden",
    "I cannot sleep.": "sleep",
}
JOYS = {
    "I found my hat.": "hat",
    "My bread is sweet today.": "bread",
    "My garden is full of flowers.": "garden",
    "I have a new boat.": "boat",
}

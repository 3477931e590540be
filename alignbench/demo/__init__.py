"""`alignbench demo`: an island whose truth, manners and users are known, and models aligned and measured in it."""

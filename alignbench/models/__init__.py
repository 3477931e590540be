"""Language models: checkpoints, and the engines that score and generate text with them."""

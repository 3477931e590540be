"""The InstructGPT recipe: SFT, reward model, PPO and PPO-ptx.

To read it: losses.py (the mathematics), packing.py (how examples share a row), ppo.py (its main loop is `train`), then
sft.py and reward.py with the loop that they share, supervised.py. docs/training.md has the choices and their reasons.
"""

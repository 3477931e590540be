"""The InstructGPT recipe: SFT, reward model, PPO and PPO-ptx.

Start with losses.py (the mathematics) and ppo.py (its main loop is `train`); sft.py and reward.py share the loop in
loop.py. packing.py lays out examples in one row. docs/training.md and docs/ppo_details.md explain the choices.
"""

"""The InstructGPT recipe: SFT, reward model, PPO and PPO-ptx (docs/training.md). Start with losses.py and ppo.py."""

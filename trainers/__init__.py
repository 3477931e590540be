"""InstructGPT's recipe: SFT, reward model, PPO, PPO-ptx; and RLOO (docs/training.md). Start with ppo.py."""

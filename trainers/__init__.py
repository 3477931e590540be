"""The InstructGPT recipe: SFT, reward model, PPO and PPO-ptx."""

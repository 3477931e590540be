"""InstructGPT's recipe: SFT, reward model, PPO, PPO-ptx; and RLOO, DPO, rejection sampling. Start with ppo.py."""

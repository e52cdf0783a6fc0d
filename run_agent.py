"""Trains an agent, or evaluates one: ``python run_agent.py --help``."""

from plasticity.training.entry import main

if __name__ == "__main__":
    raise SystemExit(main())

"""What the tests share, and no test: peers, brokers, styles, and programs that run in processes of their own."""

from pathlib import Path

ROOT = Path(__file__).parents[2]

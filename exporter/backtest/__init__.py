"""The ``backtest`` command: replays recorded traffic through the detector and scores the flags it would raise."""

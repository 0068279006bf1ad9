"""Replays recorded traffic through the detector, and says what would have been flagged and how right that was."""

"""The evaluation of current traffic: polls, the evaluation windows, and the flags of series and services."""

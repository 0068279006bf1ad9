"""What every command needs: logs, signals, the terminal, exit codes, interpreter settings."""

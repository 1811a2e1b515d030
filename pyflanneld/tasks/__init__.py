"""Shell: the long-lived tasks that daemon/run.py starts. They know the ports only, never what stands behind them."""

"""What pytest loads first, wherever it looks for tests."""

pytest_plugins = ["nbwatch"]  # in tools/: limits for the notebooks that nbval runs

"""The command line, `sdlearn COMMAND`: one module a command, and `main` in front of them."""

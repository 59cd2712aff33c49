"""Run the command line: `python -m lit_hour`."""

from lit_hour.cli.main import console_main

if __name__ == "__main__":
    console_main()

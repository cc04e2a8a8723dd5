"""The command line, `makemore-ext` or `python -m makemore_ext`."""

import contextlib
import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error is one line on stderr.

    Args:
        argv: the arguments after the program's name; None takes those of the process.

    Returns:
        The exit status: 0; 1 where a check or the run failed; 2 where an option, or a file it
        names, cannot be used; 130 after Ctrl-C.
    """
    status = _run(list(sys.argv[1:] if argv is None else argv))
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would flush a closed or full stdout once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if isinstance(error, BrokenPipeError) else _fail(f"stdout: {error.strerror}", 1)
    return status


def _run(arguments: list[str]) -> int:
    try:
        import click

        from makemore_ext.cli import cli
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        return _fail(f"{error.name} is missing: pip install 'makemore_ext[cli]'", 1)

    try:
        status = cli.main(arguments, "makemore-ext", standalone_mode=False, obj=arguments)
    except SystemExit as closed_pipe:
        return closed_pipe.code if isinstance(closed_pipe.code, int) else 1
    except click.Abort:
        return _fail("interrupted", INTERRUPTED)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except ValueError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(": ".join(filter(None, (error.filename, error.strerror))), 1)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error}", 1)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    kind = "" if status == INTERRUPTED else "error: "
    with contextlib.suppress(OSError):
        print(f"makemore-ext: {kind}{' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

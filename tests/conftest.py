import signal

# A shell that starts the tests in the background has them ignore SIGINT, and what they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)

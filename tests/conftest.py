"""Settings all tests share."""

from hypothesis import settings

# A busy machine is no fault of the code: no test asserts a time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

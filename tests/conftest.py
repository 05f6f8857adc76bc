"""What holds for every test: no property fails because a shared machine was slow (timings live in benchmarks/)."""

from hypothesis import settings

settings.register_profile("no timings", deadline=None)
settings.load_profile("no timings")

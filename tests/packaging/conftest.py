"""The example adapter's tests are run by `test_example_adapter.py`, where the adapter is installed."""

collect_ignore = ["example_adapter"]

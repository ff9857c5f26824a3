"""What adapter authors, and we, test with: the conformance kit for adapters, and the simulator.

Needs the extra ``everynode[testing]``. Nothing that runs in production imports it.
"""

import sys

if "pytest" in sys.modules:
    import pytest

    # The kit's assertions are to explain themselves like those in a test module.
    pytest.register_assert_rewrite("everynode.testing.conformance", "everynode.testing.harness")

"""Assertions of the contract explain themselves as those of test files do."""

import pytest

pytest.register_assert_rewrite("tests.payments.providers.contract")

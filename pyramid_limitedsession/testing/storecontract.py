"""What every store has to do: the contract, as tests that are inherited."""

from __future__ import annotations

from .racecontract import RaceContract
from .usercontract import UserContract
from .workcontract import WorkContract


class StoreContract(WorkContract, UserContract, RaceContract):
    """The sentences of `pyramid_limitedsession.store.Store` as tests.

    For whoever writes a store: inherit it, and say how it is made::

        class TestMyStore(StoreContract):
            def make_store(self):
                return MyStore("sqlite:///test.sqlite")

    pytest finds the tests. Each of them asks for a store once; it may be a
    new one, or one that holds rows of other tests. `close_store` is called
    with it at the end. For error messages with values call
    ``pytest.register_assert_rewrite("pyramid_limitedsession.testing")`` in
    ``conftest.py``, before anything is imported from there.
    """

import os

import pytest
from filelock import FileLock, Timeout

from foodseg.common.errors import DataError
from foodseg.common.lock import alone


def test_one_at_a_time_and_nothing_stays(tmp_path):
    folder = tmp_path / "new" / "run"
    with alone(folder):
        assert [path.name for path in folder.parent.iterdir()] == ["run.lock"]
        with pytest.raises(DataError, match="run: another process is at it"), alone(folder):
            pass
        assert (folder.parent / "run.lock").exists()  # the refused one took nothing away
    with pytest.raises(KeyError), alone(folder):
        raise KeyError
    assert not list(folder.parent.iterdir())


def test_who_opened_the_lock_before_it_went_is_refused(tmp_path, monkeypatch):
    """Two would be at the folder otherwise: one at the file that is gone, one at a new file."""
    late, opened = FileLock(tmp_path / "run.lock"), os.open

    def slow_open(*arguments, **names):
        with monkeypatch.context() as once:
            once.setattr(os, "open", opened)
            handle = opened(*arguments, **names)
            holder.__exit__(None, None, None)  # the holder ends between the open and the lock
        return handle

    holder = alone(tmp_path / "run")
    holder.__enter__()
    monkeypatch.setattr(os, "open", slow_open)
    with pytest.raises(Timeout):
        late.acquire(blocking=False)
    monkeypatch.undo()
    with alone(tmp_path / "run"):
        pass


def test_a_lock_that_a_killed_process_left_is_taken(tmp_path):
    (tmp_path / "run.lock").touch()
    with alone(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())

"""Whether the Hugging Face Hub is reachable: tested once and quickly, since a machine without a network is normal.

huggingface_hub itself tries a dead connection six times, for about 23 seconds.
"""

import os
from functools import cache

PROBE_TIMEOUT = 5.0  # seconds


def offline() -> bool:
    """Whether the user has disabled the network, by the variables that Hugging Face libraries read."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def unreachable_reason() -> str | None:
    """Why only the Hub's cache is available; None if the Hub is reachable."""
    from huggingface_hub import constants

    if offline():
        return "HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set"
    return None if _answers(constants.ENDPOINT) else f"{constants.ENDPOINT} does not answer"


@cache
def _answers(endpoint: str) -> bool:
    import http.client
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(endpoint, timeout=PROBE_TIMEOUT):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException):
        return False

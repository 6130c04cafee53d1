"""What the shop sells. Prices stand here and not in the request: a customer does not name the price."""

from collections.abc import Mapping
from typing import Final

#: Price of one piece, in cents.
PRICES_CENTS: Final[Mapping[str, int]] = {
    "bicycle": 64_900,
    "helmet": 7_950,
    "lamp": 3_490,
    "lock": 4_200,
    "pump": 1_899,
    "saddle": 5_600,
}

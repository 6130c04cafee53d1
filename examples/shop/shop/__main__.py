"""`python3 -m shop order|inventory|payment`: one image, three services."""

import logging
import sys
from collections.abc import Mapping
from typing import Final

from shop import inventory, order, payment
from shop.server import Service, serve
from shop.settings import Settings

SERVICES: Final[Mapping[str, Service]] = {
    "order": order.SERVICE,
    "inventory": inventory.SERVICE,
    "payment": payment.SERVICE,
}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in SERVICES:
        sys.exit(f"usage: python3 -m shop {'|'.join(SERVICES)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    serve(SERVICES[sys.argv[1]], Settings.from_environment())


if __name__ == "__main__":
    main()

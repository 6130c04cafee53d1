"""Accounts, and the steps that move money between them. Each step and its undo take effect once: see `step_guard`."""

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from marty_msf.patterns.saga import SagaOrchestrator, StepContext, StepRejected, StepTooLate, step_guard

TABLE: Final = """
CREATE TABLE IF NOT EXISTS account (
    name    text   PRIMARY KEY,
    balance bigint NOT NULL CHECK (balance >= 0)
)
"""

TAKE: Final = "UPDATE account SET balance = balance - $2 WHERE name = $1 AND balance >= $2 RETURNING balance"
PUT: Final = "UPDATE account SET balance = balance + $2 WHERE name = $1 RETURNING balance"


class Bank:
    """The handlers. They could as well run in services of their own, behind HTTP: the guard is the same there."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    def register(self, orchestrator: SagaOrchestrator) -> None:
        """Before `start`, in every process of the orchestrator's name."""
        orchestrator.register_step_handler("debit_account", self.debit)
        orchestrator.register_compensation_handler("debit_account", self.give_back)
        orchestrator.register_step_handler("credit_account", self.credit)

    async def debit(self, context: StepContext) -> Mapping[str, Any]:
        """Take the amount, if the account has it."""
        return await self._move(context, TAKE, "has not enough")

    async def give_back(self, context: StepContext) -> Mapping[str, Any]:
        """Undo a debit."""
        return await self._move(context, PUT, "is gone")

    async def credit(self, context: StepContext) -> Mapping[str, Any]:
        """Put the amount; an account that does not exist makes the debit be given back."""
        return await self._move(context, PUT, "does not exist")

    async def _move(self, context: StepContext, statement: str, otherwise: str) -> Mapping[str, Any]:
        account, amount = context.data["account"], context.data["amount"]
        try:
            async with self._pool.acquire() as conn, step_guard(conn, context.idempotency_key) as step:
                if step.fresh:
                    balance = await conn.fetchval(statement, account, amount)
                    if balance is None:
                        step.refuse(f"account {account} {otherwise}")
                    else:
                        step.answer = {f"balance_of_{account}": balance}
        except StepTooLate as error:
            raise StepRejected(str(error)) from error
        if step.refused:
            raise StepRejected(step.answer)
        answer: Mapping[str, Any] = step.answer
        return answer


async def transfer(
    orchestrator: SagaOrchestrator, from_account: str, to_account: str, amount: int, business_key: str
) -> str:
    """Start a transfer, once for each business key; returns the saga's id."""
    steps = [
        {"step": "debit_account", "account": from_account, "amount": amount},
        {"step": "credit_account", "account": to_account, "amount": amount},
    ]
    return await orchestrator.start_saga("money_transfer", steps, business_key=business_key)

"""Settings that say what may be spent: limits of fees and balance, and the price of the token."""

from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, SecretStr
from pydantic_settings import BaseSettings

from saga.checks import check_http_url, check_json_path
from saga.fees import MAX_USD, USD_DECIMALS
from saga.setting import CONFIG, setting


class MoneySettings(BaseSettings):
    """The price is given, or asked for, or unknown: then no limit in dollars is active."""

    model_config = CONFIG

    MIN_BALANCE_WEI: int = setting(
        0,
        "below this balance of a key nothing new is sent from it; 0: only what the chain itself "
        "refuses",
        "50000000000000000",
        ge=0,
    )
    MAX_DEPLOYMENT_COST_WEI: int = setting(
        0,
        "most for deploying and registering one model at the prices of the moment, held above it; "
        "0: no limit",
        "20000000000000000",
        ge=0,
    )
    MAX_DEPLOYMENT_COST_USD: Decimal = setting(
        Decimal(50),
        "most for one model in US dollars, held above it, once a price is known; 0: no limit",
        "50",
        ge=0,
        le=MAX_USD,
        decimal_places=USD_DECIMALS,
    )
    NATIVE_TOKEN_USD: Decimal | None = setting(
        None,
        "price of the chain's native token in US dollars",
        "3000",
        gt=0,
        le=MAX_USD,
        decimal_places=USD_DECIMALS,
    )
    NATIVE_TOKEN_USD_URL: Annotated[SecretStr | None, AfterValidator(check_http_url)] = setting(
        None,
        "or: where to ask for it, every minute",
        "https://api.coinbase.com/v2/prices/ETH-USD/spot",
    )
    NATIVE_TOKEN_USD_PATH: Annotated[str, AfterValidator(check_json_path)] = setting(
        "",
        "dots between the names that lead to the number in the answer, as `ethereum.usd` or "
        "`data.amount`; default: the answer's only number",
        "data.amount",
    )
    DEPLOYMENTS_PER_HOUR: float = setting(
        0.0,
        "most deployments of all replicas together in an hour, evenly; 0: no limit",
        "120",
        ge=0,
    )


def money_problems(settings: MoneySettings) -> list[str]:
    """Two prices, or a path into no answer: a line for each problem."""
    problems = []
    asked = settings.NATIVE_TOKEN_USD_URL is not None
    if asked and settings.NATIVE_TOKEN_USD is not None:
        problems.append(
            "NATIVE_TOKEN_USD and NATIVE_TOKEN_USD_URL are set, and only one may be: unset the "
            "price to have it asked for, or the URL to have it fixed"
        )
    if settings.NATIVE_TOKEN_USD_PATH and not asked:
        problems.append(
            "NATIVE_TOKEN_USD_PATH means nothing without NATIVE_TOKEN_USD_URL; set both or neither"
        )
    return problems

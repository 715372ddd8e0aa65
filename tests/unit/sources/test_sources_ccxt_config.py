"""What a ccxt provider says of its arguments before anything starts, and what it never shows."""

from __future__ import annotations

import sys

import pytest
from pydantic import SecretStr

from market_data_pipeline.component import describe
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.sources.ccxt import CcxtProvider
from market_data_pipeline.sources.provider import MarketDataProvider
from market_data_pipeline.sources.provider_source import ProviderSource


def test_what_is_wrong_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'kraken'"):
        CcxtProvider("kracken")
    with pytest.raises(ConfigError, match=r"quotes: 'l2' is not allowed; one of: ticker"):
        CcxtProvider("kraken", quotes="l2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="quotes='ticker' there; it has quotes='order_book'"):
        CcxtProvider("independentreserve").check(["BTC/USD"], ["quote"])
    with pytest.raises(ConfigError, match="kinds: 'bar'"):
        CcxtProvider("kraken").check(["BTC/USD"], ["bar"])
    with pytest.raises(ConfigError, match="symbols: '' is not"):
        CcxtProvider("kraken").check([""], ["trade"])
    CcxtProvider("kraken").check(["BTC/USD"], ["trade", "quote"])
    monkeypatch.setitem(sys.modules, "ccxt.pro", None)
    with pytest.raises(ConfigError, match=r"pip install 'market-data-pipeline\[ccxt\]'"):
        CcxtProvider("kraken")


def test_secrets_show_nowhere() -> None:
    for options, name in [({"apiKey": "k"}, "apiKey"), ({"options": {"password": "p"}}, "password")]:
        with pytest.raises(ConfigError, match=name):
            CcxtProvider("kraken", options=options)
    with pytest.raises(ConfigError, match="httpsProxy holds a password"):
        CcxtProvider("kraken", options={"httpsProxy": "http://me:open@proxy:1"})
    hidden = CcxtProvider(
        "kraken", options={"httpsProxy": SecretStr("http://me:hidden@proxy:1")}, secret=SecretStr("hidden")
    )
    assert "hidden" not in f"{describe(hidden)} {hidden.config()} {vars(hidden)}"
    assert hidden._make().httpsProxy == "http://me:hidden@proxy:1"
    assert hidden._make().secret == "hidden"


def test_keys_given_as_text_are_hidden_at_once() -> None:
    given = CcxtProvider("kraken", api_key="hidden1", secret="hidden2", password="hidden3")
    assert "hidden" not in f"{describe(given)} {given.config()} {vars(given)} {describe(ProviderSource(given, ['A']))}"
    assert not {"api_key", "secret", "password"} & given.config().keys()
    made = given._make()
    assert (made.apiKey, made.secret, made.password) == ("hidden1", "hidden2", "hidden3")


def test_it_is_a_provider() -> None:
    source = CcxtProvider("binance", quotes="bids_asks", options={"sandbox": True})
    assert isinstance(source, MarketDataProvider)
    assert (source.name, source.kinds, source.splittable) == ("binance", {"trade", "quote"}, True)
    assert "testnet" in str(source._make().urls["api"]) or "demo" in str(source._make().urls["api"])
    assert describe(source)["options"] == {"sandbox": True}

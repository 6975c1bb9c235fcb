"""Amounts in ISO 4217 minor units, as orders have them, to and from the amounts of Stripe's API.

Source: https://docs.stripe.com/currencies, sections "Zero-decimal currencies", "Three-decimal currencies" and "Special cases", and
https://support.stripe.com/questions/deprecation-of-fractional-isk-charges-and-refunds. An amount that Stripe does not take is
refused and never rounded.
"""

_TWO_DECIMALS = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BWP BYN BZD CAD CDF CHF CNY COP CRC CVE CZK DKK DOP
DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR JMD KES KGS KHR KYD KZT LAK LBP LKR LRD LSL MAD MDL
MKD MMK MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SEK SGD SHP
SLE SOS SRD STN SZL THB TJS TOP TRY TTD TWD TZS UAH USD UYU UZS WST XCD XCG YER ZAR ZMW
"""
_NO_DECIMALS = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
# The last digit must be 0: card networks take two decimals.
_THREE_DECIMALS = "BHD JOD KWD OMR TND"
# No decimals in ISO 4217. The API takes two, which must be 00.
_TWO_ZEROS = "ISK UGX"

DECIMALS = (
    dict.fromkeys(_TWO_DECIMALS.split(), 2)
    | dict.fromkeys(_NO_DECIMALS.split(), 0)
    | dict.fromkeys(_THREE_DECIMALS.split(), 3)
    | dict.fromkeys(_TWO_ZEROS.split(), 2)
)
CURRENCIES = frozenset(DECIMALS)
_TENS = frozenset(_THREE_DECIMALS.split())
# One unit of Stripe's is so many ISO 4217 minor units, or the other way round.
_STRIPE_UNIT = {"MGA": 100}
_ISO_UNIT = dict.fromkeys(_TWO_ZEROS.split(), 100)


class AmountNotPossible(ValueError):
    """Stripe does not take the amount; the text says why in one sentence."""


def to_stripe(value: int, currency: str) -> int:
    """The amount for Stripe's API of `value` minor units. Raises AmountNotPossible."""
    if currency not in CURRENCIES:
        raise AmountNotPossible(f"Stripe does not take {currency}")
    amount, rest = divmod(value, _STRIPE_UNIT.get(currency, 1))
    if rest:
        raise AmountNotPossible(f"Stripe takes {currency} without decimals only")
    if currency in _TENS and amount % 10:
        raise AmountNotPossible(f"Stripe takes {currency} with two decimals only: the third must be 0")
    return amount * _ISO_UNIT.get(currency, 1)


def from_stripe(amount: int, currency: str) -> int:
    """The minor units of an amount of Stripe's API; `currency` in any case."""
    code = currency.upper()
    return amount * _STRIPE_UNIT.get(code, 1) // _ISO_UNIT.get(code, 1)

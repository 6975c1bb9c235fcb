"""The provider Stripe. Only this package may import the library of Stripe, and only the factory imports this package."""

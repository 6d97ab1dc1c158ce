"""The renderer: `identity` says what a person is, `motion` how it moves, the rest draws it."""

"""The pictures of the README and of the documentation; ``python -m images`` draws them.

Colours follow the paper: black is data on its way forward, dashed where the sender does not
wait for an update; green a real gradient, blue a synthetic one, red a synthetic input; a filled
circle is the objective, where a synthetic and a real message meet and the synthesizer learns.
"""

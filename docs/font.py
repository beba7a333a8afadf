"""Makes ``_static/math.woff2``, what formulas are drawn with: python docs/font.py STIXTwoMath.ttf.

A subset of STIX Two Math (github.com/stipub/stixfonts, SIL Open Font License 1.1), with the glyphs
that formulas here are made of; it needs fonttools and brotli. One thing is changed: all root signs
are as wide as the smallest one, since Chromium keeps the room of the widest behind every root.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

# Latin, accents, Greek, spaces, letters like \ell, arrows, operators, fences, alphabets.
RANGES = """20-7e a0 ac af b1 b7 d7 2c6 2c7 2d9 2dc 302-304 307 391-3a9 3b1-3c9 3d5 3f5 2009 200b
2013 2016 2026 2032-2034 203e 2061-2063 2102 210e 2112 2113 2115 211d 2190-2194 21a6 21d2 2200
2202-2208 220f 2211-2213 2215-221a 221d 221e 2223 2225 2227-222b 223c 2248 2254 2260 2264 2265
226a 226b 2282 2286 2295 2297 2299 22a4 22a5 22c5 22ee-22f1 2308-230b 23de 23df 27e8 27e9 2a7d
2a7e 1d400-1d467 1d49c-1d4b5 1d53c 1d6e2-1d71b"""
ROOT = 0x221A


def characters() -> list[int]:
    """What ``RANGES`` says."""
    bounds = [[int(end, 16) for end in part.split("-")] for part in RANGES.split()]
    return [code for bound in bounds for code in range(bound[0], bound[-1] + 1)]


def narrow_roots(font: TTFont) -> None:
    """Give all root signs the width of the smallest."""
    smallest = font.getBestCmap()[ROOT]
    variants = font["MATH"].table.MathVariants
    made = variants.VertGlyphConstruction[variants.VertGlyphCoverage.glyphs.index(smallest)]
    names = {record.VariantGlyph for record in made.MathGlyphVariantRecord}
    parts = {part.glyph for part in made.GlyphAssembly.PartRecords}
    width = font["hmtx"][smallest][0]
    widest = max(font["hmtx"][name][0] for name in parts)
    for name in (names | parts) - {smallest}:
        scale = width / (widest if name in parts else font["hmtx"][name][0])
        advance, bearing = font["hmtx"][name]
        font["hmtx"][name] = (round(advance * scale), round(bearing * scale))
        glyph = font["glyf"][name]
        if glyph.numberOfContours:
            glyph.coordinates.scale((scale, 1))
            glyph.coordinates.toInt()
            glyph.recalcBounds(font["glyf"])


def main() -> None:
    """The command line."""
    options = Options(flavor="woff2", hinting=False, layout_features=[], name_IDs=[0, 1, 2, 13, 14])
    font = TTFont(sys.argv[1], recalcTimestamp=False)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=characters())
    subsetter.subset(font)
    narrow_roots(font)
    font.flavor = "woff2"
    font.save(Path(__file__).parent / "_static" / "math.woff2")


if __name__ == "__main__":
    main()

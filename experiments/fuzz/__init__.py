"""Random command lines, damaged files, wrong API calls and kills: what the library does with them, counted."""

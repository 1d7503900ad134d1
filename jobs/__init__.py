"""Command lines. Each loads `transforms` first, before any library that reads the number of its threads."""

import transforms as transforms

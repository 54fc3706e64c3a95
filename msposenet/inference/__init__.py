"""From pictures and boxes to people: crops, flip test, decoding, scoring, drawing."""

"""What is asked and what is answered: the query language, filters, and hits in their order.

Heavy imports stay out: neither torch nor SQLAlchemy nor FAISS is loaded with this package.
"""

from clipsearch.search.compose import compose
from clipsearch.search.cutoff import suggest_cutoff
from clipsearch.search.query import Query, Term
from clipsearch.search.ranking import Hit, rank
from clipsearch.search.where import Where, parse_date

__all__ = ["Hit", "Query", "Term", "Where", "compose", "parse_date", "rank", "suggest_cutoff"]

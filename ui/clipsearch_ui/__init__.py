"""The Streamlit app: a thin view over `clipsearch.Library`."""

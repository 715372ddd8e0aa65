"""Components by name, and Dags as documents that name them."""

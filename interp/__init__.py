"""Looking inside: models, interventions, decoding, recording, diagnosis, effects."""

"""Training: the engine that every loop stands on, and the trainers (`python -m deepexpo_models.training.train_...`)."""

"""What experiments share: tables, pages of results, accuracies, budgets."""

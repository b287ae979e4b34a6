"""What a run would need, before anything is rented: the step as a compiler sees it, and the chips that it is for."""

"""A language model of words or characters: LSTM, GRU or plain, in short windows."""

def case(draw, box, f): raise NotImplementedError

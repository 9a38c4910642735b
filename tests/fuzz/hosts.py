def case(draw, box): raise NotImplementedError

"""WebShop: buying the product an instruction asks for, in a shop made of text pages."""

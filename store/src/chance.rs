//! The only source of chance in the store, but for salts: ids, incarnations, names of temporary files.

#[cfg(not(feature = "simulate"))]
pub(crate) fn number() -> u64 {
    rand::random()
}

/// In a simulation the numbers of this thread follow from its seed.
#[cfg(feature = "simulate")]
pub(crate) fn number() -> u64 {
    crate::simulate::chance().unwrap_or_else(rand::random)
}

/// The chance in an id of version 7.
pub(crate) fn bytes() -> [u8; 10] {
    let mut bytes = [0; 10];
    for half in bytes.chunks_mut(8) {
        let number = number().to_be_bytes();
        for (byte, chance) in half.iter_mut().zip(number) {
            *byte = chance;
        }
    }
    bytes
}

/// One that was most probably never used.
pub(crate) fn incarnation() -> u32 {
    let [_, _, _, _, low @ ..] = number().to_be_bytes();
    u32::from_be_bytes(low)
}

# Listens for those who try to reach this machine, on ports where nobody does: NONCE ADDRESS TCP,PORTS UDP,PORTS.
# Ends on request, when nobody reads its output any more, and after a minute in any case.
use strict;
use warnings;
use Socket qw(:all);

alarm 60;
$| = 1;
$SIG{PIPE} = 'IGNORE';
my ($nonce, $address, $tcp, $udp) = @ARGV;
my $v6 = $address =~ /:/;
my $ip = inet_pton($v6 ? AF_INET6 : AF_INET, $address);
my (%streams, %packets, $readable);

sub place { $v6 ? pack_sockaddr_in6($_[0], $ip) : pack_sockaddr_in($_[0], $ip) }

sub open_port {
    my ($kind, $port) = @_;
    socket(my $socket, $v6 ? AF_INET6 : AF_INET, $kind eq 'tcp' ? SOCK_STREAM : SOCK_DGRAM, 0) or die "socket: $!";
    setsockopt($socket, SOL_SOCKET, SO_REUSEADDR, 1) if $kind eq 'tcp';
    if (bind($socket, place($port)) && ($kind eq 'udp' || listen($socket, 128))) {
        ($kind eq 'tcp' ? \%streams : \%packets)->{fileno $socket} = $socket;
        print "$nonce up $kind $port\n";
    } else {
        print "$nonce ", ($!{EADDRINUSE} ? 'held' : 'closed'), " $kind $port\n";
    }
}

open_port('tcp', $_) for split /,/, $tcp;
open_port('udp', $_) for split /,/, $udp;
# A socket that is no file, and only this machine's.
socket(my $end, AF_UNIX, SOCK_STREAM, 0) or die "end: $!";
bind($end, pack_sockaddr_un("\0$nonce $address")) && listen($end, 1) or die "end: $!";
vec($readable, fileno $_, 1) = 1 for $end, values %streams, values %packets;
print "$nonce ready\n";
while (1) {
    my $ready = $readable;
    my $many = select($ready, undef, undef, 1);
    if ($many < 1) {
        last unless $many || syswrite(STDOUT, "\n");
        next;
    }
    last if vec($ready, fileno $end, 1);
    for my $socket (grep { vec($ready, fileno $_, 1) } values %streams) {
        accept(my $guest, $socket) or next;
        send($guest, "$nonce\n", MSG_NOSIGNAL);
    }
    for my $socket (grep { vec($ready, fileno $_, 1) } values %packets) {
        my $from = recv($socket, my $said, 65536, 0) // next;
        send($socket, "$nonce " . length $said, 0, $from) if index($said, $nonce) == 0;
    }
}

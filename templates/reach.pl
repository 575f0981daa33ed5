# Tries to reach other machines, all at the same time: NONCE, and on standard input a line for each way: `tcp ADDRESS
# PORT greets`, where a listener of ours is there to say the nonce, or `… silent`; and `udp ADDRESS PORT greets`.
# Says how each came out, and of UDP the largest packet that went through unbroken.
use strict;
use warnings;
use Socket qw(:all);
use Errno;

use constant { PATIENCE => 3, AGAIN => 0.4, IP_MTU_DISCOVER => 10, IP_MTU => 14, IPV6_MTU_DISCOVER => 23, IPV6_MTU => 24, TCP_INFO => 11 };
my @SIZES = (8950, 1500, 1492, 1480, 1450, 1430, 1420, 1400, 1280);

alarm 60;
$| = 1;
my $nonce = shift;

# Seconds since boot: of the clocks that there are without more of Perl, the one that nobody sets.
sub now { open my $file, '<', '/proc/uptime' or die "uptime: $!"; (split ' ', <$file>)[0] }

sub begin {
    my ($way) = @_;
    my $v6 = $way->{address} =~ /:/;
    my $family = $v6 ? AF_INET6 : AF_INET;
    my $ip = inet_pton($family, $way->{address}) or die "address: $way->{address}";
    my $place = $v6 ? pack_sockaddr_in6($way->{port}, $ip) : pack_sockaddr_in($way->{port}, $ip);
    socket(my $socket, $family, ($way->{kind} eq 'tcp' ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0) or die "socket: $!";
    @$way{qw(socket v6 largest)} = ($socket, $v6, 0);
    if ($way->{kind} eq 'udp') {
        # Packets that do not fit are lost, not broken up.
        setsockopt($socket, $v6 ? IPPROTO_IPV6 : IPPROTO_IP, $v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, pack 'i', 2);
    }
    return if connect($socket, $place) || $!{EINPROGRESS};
    $way->{end} = failed($!);
}

sub failed {
    my ($why) = @_;
    $! = $why + 0;
    return $!{ECONNREFUSED} ? 'refused' : $!{ETIMEDOUT} ? 'lost' : $!{EHOSTUNREACH} || $!{ENETUNREACH} || $!{EACCES} || $!{EPERM} ? 'unreachable' : "failed $why";
}

# Headers of IP and UDP come before what is sent.
sub ask {
    my ($way, $size) = @_;
    my $bytes = $size - ($way->{v6} ? 48 : 28);
    send($way->{socket}, $nonce . '.' x ($bytes - length $nonce), 0) if $bytes >= length $nonce;
}

sub ask_again {
    my ($way, $round) = @_;
    my $level = $way->{v6} ? IPPROTO_IPV6 : IPPROTO_IP;
    my $packed = getsockopt($way->{socket}, $level, $way->{v6} ? IPV6_MTU : IP_MTU);
    $way->{mtu} ||= $packed ? unpack 'i', $packed : 1500;
    ask($way, $_) for 128, $way->{mtu} > 65535 ? 65535 : $way->{mtu};
    ask($way, $_) for $round < 2 ? () : grep { $_ < $way->{mtu} } @SIZES;
}

sub hear {
    my ($way) = @_;
    my $said = '';
    my $heard = $way->{kind} eq 'udp' ? defined recv($way->{socket}, $said, 256, 0) : defined sysread($way->{socket}, $said, 256);
    return if !$heard && ($!{EAGAIN} || $!{EMSGSIZE});
    return $way->{end} = failed($!) unless $heard;
    if ($way->{kind} eq 'tcp') {
        $way->{end} = index($said, $nonce) == 0 ? 'ok ' . $way->{rtt} : 'other';
    } elsif ($said =~ /^\Q$nonce\E ([0-9]{1,5})$/) {
        my $size = $1 + ($way->{v6} ? 48 : 28);
        $way->{largest} = $size if $size > $way->{largest};
        $way->{end} = "ok $way->{mtu} $way->{largest}" if $size >= $way->{mtu} || $size == 65535;
    }
}

sub connected {
    my ($way) = @_;
    my $error = unpack 'i', getsockopt($way->{socket}, SOL_SOCKET, SO_ERROR);
    return $way->{end} = failed($error) if $error;
    # Microseconds, from the kernel's own books (struct tcp_info).
    $way->{rtt} = unpack 'x68 L', getsockopt($way->{socket}, IPPROTO_TCP, TCP_INFO);
    $way->{end} = "ok $way->{rtt}" if $way->{greets} eq 'silent';
}

sub try_all {
    my @ways = @_;
    begin($_) for @ways;
    my ($since, $round) = (now(), 0);
    while (my @open = grep { !$_->{end} } @ways) {
        my $past = now() - $since;
        last if $past > PATIENCE;
        if ($past >= $round * AGAIN) {
            ask_again($_, $round) for grep { $_->{kind} eq 'udp' } @open;
            $round++;
        }
        my ($read, $write) = ('', '');
        vec($_->{kind} eq 'tcp' && !defined $_->{rtt} ? $write : $read, fileno $_->{socket}, 1) = 1 for @open;
        select($read, $write, undef, AGAIN / 4) > 0 or next;
        for my $way (@open) {
            connected($way) if vec($write, fileno $way->{socket}, 1);
            hear($way) if !$way->{end} && vec($read, fileno $way->{socket}, 1);
        }
    }
    for my $way (@ways) {
        $way->{end} ||= $way->{largest} ? "ok $way->{mtu} $way->{largest}" : defined $way->{rtt} ? 'other' : 'lost';
        print "$way->{kind} $way->{address} $way->{port} $way->{end}\n";
        close $way->{socket};
    }
}

my @ways = map { chomp; my %way; @way{qw(kind address port greets)} = split ' '; \%way } <STDIN>;
try_all(splice @ways, 0, 200) while @ways;
